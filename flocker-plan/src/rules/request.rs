//! What a person asks for by name, beside the deployment: promotion, reclaiming, bringing back.
