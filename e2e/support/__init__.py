"""What the stories share: a cluster, a scene of one's own in it, the operator as the chart installs it, a witness."""
