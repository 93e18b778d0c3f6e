"""Commands of `user` that are about robots; each module has `main(argv) -> exit status`."""
