"""Pictures of a certification."""
