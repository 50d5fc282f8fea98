"""OrderGrad."""
