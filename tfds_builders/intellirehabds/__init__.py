"""IntelliRehabDS: rehabilitation movements recorded with Kinect v2."""
