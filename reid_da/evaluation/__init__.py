"""Features to numbers: CMC, mAP, mINP, re-ranking, operating points."""
