"""Commands for federations between machines."""
