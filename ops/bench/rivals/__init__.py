"""Alternatives to this worker: one task for each member, or a plain script. Each asks the same server for the same members.

They get every advantage. For each member they store one row with the encrypted URI and one with the notification, in one statement
and one commit. They claim, fence, plan and classify nothing, and their queues are filled before the clock starts.
"""
