"""Environment wrappers that let any algorithm optimise an objective of whole-episode returns.

Import them from `ordergrad.wrappers.gymnasium` and `ordergrad.wrappers.sb3`.
"""
