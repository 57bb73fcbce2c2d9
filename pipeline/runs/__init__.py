"""A run of the pipeline for one organ, in a workspace of its own: opened, gone through, published, closed.

A workspace is a clone of the project with a DVC cache that all runs share. Every step is a command that
can be killed at any instruction and given again; none knows who calls it, Airflow or a person.
"""
