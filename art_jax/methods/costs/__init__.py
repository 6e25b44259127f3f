"""What a run takes of devices, links and disk, from its sizes alone."""
