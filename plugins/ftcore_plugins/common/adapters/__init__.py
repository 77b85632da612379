"""Low-rank adapters: what `lora` and `qlora` share. Only `options` is light; the others import torch or PEFT."""
