"""``python -m ordergrad``: the same as the ``ordergrad`` command."""

from ordergrad.commands.cli import app

app(prog_name="ordergrad")
