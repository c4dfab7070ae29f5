"""Execution: the launch loop, and the executors that run trials in this process, in forked processes or on Ray."""
