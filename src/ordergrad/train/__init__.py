"""What `ordergrad train` runs."""
