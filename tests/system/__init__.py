"""The whole daemon, as a process, judged by what comes out of its sockets, its exit status and its database."""
