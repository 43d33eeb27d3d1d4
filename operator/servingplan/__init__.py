"""Plans and runs LLM serving on Kubernetes."""
