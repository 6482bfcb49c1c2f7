"""What is told of runs: small result files, the tables made of them, and step sizes chosen by validation."""
