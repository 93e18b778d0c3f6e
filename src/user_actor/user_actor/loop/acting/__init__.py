"""What gives the actions: the policy of this robot, in its loop or beside it, or one on another host; and how chunks
are carried out."""
