"""The command `stream-cached`: its subcommands, but for the demo, which has a folder of its own."""
