"""Fused kernels behind the estimators: the same sort and scan, for one kind of processor each; optional."""
