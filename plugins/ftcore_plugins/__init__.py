"""The plugins that come in the box. They use the same door as anyone's: an entry point and `ftcore.api`."""
