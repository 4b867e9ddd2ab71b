"""The commands, one module for what they are about. What a command needs is imported when it runs."""
