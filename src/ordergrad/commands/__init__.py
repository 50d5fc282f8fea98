"""The ``ordergrad`` command, one file per subcommand."""
