"""Methods: a client routine and a server strategy each."""
