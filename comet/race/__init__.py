"""`race`: one worker as process and one as container, killed at the same moment, again and again.

Both run the same program, so what differs is the form. `course` kills and reads the supervisor's own timelines,
`result` makes the statistics (pure), `drawing` draws both on one axis (pure).
"""
