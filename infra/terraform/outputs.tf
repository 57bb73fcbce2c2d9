output "bucket" {
  description = "For `dvc remote add --default store s3://BUCKET/dvc` and the source of receive_data."
  value       = aws_s3_bucket.data.bucket
}

output "roles" {
  description = "Role of each kind of pod."
  value       = { for name, role in aws_iam_role.pod : name => role.arn }
}

output "sender_policy" {
  description = "To be attached to whoever brings scans."
  value       = aws_iam_policy.sender.arn
}
