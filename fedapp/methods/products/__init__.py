"""LoRA's updates combined as products: FLoRA, FedEx-LoRA, FlexLoRA."""
