"""Critics that learn from whatever was stored: SAC, RLPD and what is built on them."""
