"""Other programs' displays of a run, fed with the rows that its folder keeps."""
