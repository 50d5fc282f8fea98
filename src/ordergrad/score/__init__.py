"""What `ordergrad score` runs: reward logs of any size, read in a stream."""
