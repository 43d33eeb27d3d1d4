"""EFFECT. Carries out decided actions with one result per action. It decides nothing."""
