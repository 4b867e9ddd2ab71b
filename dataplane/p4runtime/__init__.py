"""How a controller writes and reads the tables: P4Runtime, and the P4Info that it goes by."""
