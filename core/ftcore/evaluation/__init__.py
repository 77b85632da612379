"""How good the model is: judged before, while and after it is trained, and whenever it is asked for."""
