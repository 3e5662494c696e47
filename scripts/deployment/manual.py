"""What ``scripts/deploy --help`` says."""

DESCRIPTION = """\
Brings ChatFlow to AWS and keeps it there, and rolls new releases through the
instances that run, one at a time, so that no client is refused.

  scripts/deploy plan          what would be done, and what would change
  scripts/deploy up            do it
  scripts/deploy roll          give all instances this checkout's release
  scripts/deploy status        how they are
  scripts/deploy down          take it away again

Without an account, on the cluster that scripts/cluster runs on this machine:

  scripts/deploy roll --local                     restart all, one at a time
  scripts/deploy roll --local -- --linger-ms 1    the same with another option
  scripts/deploy roll --local --wheel FILE        another version
  scripts/deploy roll --local --rollback          back to what ran before
"""

EPILOG = """\
Every command may be interrupted and repeated: how far it came is asked of AWS, or
of the cluster, and not remembered here. scripts/deploy COMMAND --help says more.

Exit status: 0 done, and of status: all is well; 1 it could not be done, the reason
and the remedy are on stderr; 2 the command line is wrong; 130 interrupted.
"""

MAX_LAG = (
    "before an instance is taken out, and at the end, wait until no message has waited longer for its storage "
    "(5; on AWS 60, since CloudWatch tells it by the minute)"
)
READY = "how long a new instance may take until it is ready (60; on AWS 900)"

REPLACE_DATA = (
    "allow changes that delete or replace a database, a queue or a bucket; without it such a change is refused"
)

COMMANDS = {
    "plan": (
        "print each step and each difference, and change nothing",
        """\
Works without an account: it then says what would be done, and that and why it could
not compare. With credentials it only reads.
""",
    ),
    "up": (
        "create what is missing and change what differs",
        """\
Makes the bucket of releases, packs this checkout's release and puts it there, and
makes or changes the stack by a change set, which it prints. The schema of the database
is brought up to date by the first instance that starts with the release. Instances
that run keep their release: scripts/deploy roll gives them the new one.
""",
    ),
    "roll": (
        "give the instances a new release, one at a time",
        """\
Of each instance: out of the balancer, so that it gets no new clients; drained, its
clients come back on others and resume where they were; stopped; the new release; ready;
in the balancer again; and on with the next once the lag is normal. When an instance
does not become ready the roll stops and says why: that one serves nobody, the others
are as they were. Repeated, it goes on where it stopped. Two instances must be ready.
""",
    ),
    "status": (
        "instances, their releases and health, the lag, and the stack",
        """\
The exit status is 0 if all serve clients with the release that they are to run.
""",
    ),
    "down": (
        "delete the stack, after asking for its name",
        """\
Says before what is lost and what stays: the last snapshot of the database and the bucket
of releases.
""",
    ),
}
