"""Using a trained model: features, labels and reconstructions of skeletons from anywhere."""
