"""`ordergrad report` and `ordergrad explain`: pages about runs and about objectives."""
