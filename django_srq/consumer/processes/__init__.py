"""The processes of ``srq_consume``: the supervisor, its children, the keeper of their leases, the reporters."""
