"""A party's resident worker: a process that keeps base, data and adapter from one message to the next."""
