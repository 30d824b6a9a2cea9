"""Network packets: what they are made of, and the frames that travel in them, from Ethernet to TCP."""
