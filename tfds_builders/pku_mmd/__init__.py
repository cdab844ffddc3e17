"""PKU-MMD I and II: untrimmed videos of actions recorded with Kinect v2, one text file a video."""
