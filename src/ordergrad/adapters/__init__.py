"""One file per framework, imported by nobody else; each needs its framework installed."""
