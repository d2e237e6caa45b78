"""Where samples lie along rays: routing to experts, occupancy, marching."""
