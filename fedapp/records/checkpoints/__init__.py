"""What lets a run go on where it stopped: the server's checkpoints and each client's memory, on disk."""
