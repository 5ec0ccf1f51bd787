"""Answers to questions: prompts, decoding in process or through a server, and stored answers of a shard."""
