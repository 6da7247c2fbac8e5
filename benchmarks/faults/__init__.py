"""What clients notice when a part of a running service is killed, hung, starved or replaced."""
