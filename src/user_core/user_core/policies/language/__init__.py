"""Instructions as numbers: ``config`` says which tasks a policy tells apart, ``sentence`` encodes words."""
