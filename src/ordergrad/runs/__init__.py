"""What all commands share: run folders, statistics, tables, plots, workers and the console."""
