"""NTU RGB+D 60 and 120: actions recorded with Kinect v2, one `.skeleton` text file a recording."""
