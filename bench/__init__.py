"""What netstitch reaches, measured in the same run as its peers."""
