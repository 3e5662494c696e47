"""ChatFlow beside others, and checkouts of ChatFlow beside each other: one client, the same workloads, in turns."""
