"""What people would use instead: one task for each member, or a plain script. Each asks the same server for the same members.

They get every advantage. What they store is one row with the encrypted URI and one with the notification, in one statement and
one commit a member; nothing is claimed, fenced, planned or judged; and their queues are filled before the clock starts.
"""
