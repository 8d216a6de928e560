//! Recognition of files that a TLS setting cannot use, for error messages.

/// The reason why `bytes` are not a usable private key, and what to do.
pub(super) fn describe_key(bytes: &[u8]) -> &'static str {
    let contains = |text: &str| memchr::memmem::find(bytes, text.as_bytes()).is_some();
    let has = |label: &str| {
        contains(&format!("-----BEGIN {label}-----"))
            || contains(&format!("-----BEGIN {label} BLOCK-----"))
    };
    if bytes.trim_ascii().is_empty() {
        "is empty; write the private key to it, in PEM form"
    } else if has("ENCRYPTED PRIVATE KEY") || contains("Proc-Type: 4,ENCRYPTED") {
        "is encrypted with a passphrase, which a node cannot enter; decrypt it with `openssl pkey -in \
         FILE -out NEW`, and protect the file by its permissions"
    } else if has("OPENSSH PRIVATE KEY") {
        "is a key in the format of OpenSSH; convert a copy with `ssh-keygen -p -m PKCS8 -f COPY`, or \
         create a key for TLS"
    } else if contains("PuTTY-User-Key-File") || contains("BEGIN SSH2") {
        "is a key for SSH; create a key for TLS"
    } else if has("PGP PRIVATE KEY") {
        "is a PGP key; create a key for TLS"
    } else if has("DSA PRIVATE KEY") {
        "is a DSA key, which TLS does not support; create an ECDSA, Ed25519 or RSA key"
    } else if has("PRIVATE KEY") || has("RSA PRIVATE KEY") || has("EC PRIVATE KEY") {
        "contains a private key that is incomplete or damaged; copy or create it again"
    } else if has("CERTIFICATE") || has("TRUSTED CERTIFICATE") || has("X509 CERTIFICATE") {
        "contains a certificate and no private key; name the file of the key"
    } else if has("CERTIFICATE REQUEST") || has("NEW CERTIFICATE REQUEST") {
        "contains a certificate request and no private key; name the file of the key"
    } else if has("PUBLIC KEY") || has("RSA PUBLIC KEY") {
        "contains a public key and no private key; name the file of the private key"
    } else if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) {
        "is a Java key store; export the private key in PEM form"
    } else if is_pkcs12(bytes) {
        "is a PKCS #12 archive; extract the key with `openssl pkcs12 -in FILE -nocerts -noenc -out NEW`"
    } else if bytes.starts_with(&[0x30]) {
        "is in the binary form DER; convert it with `openssl pkey -inform DER -in FILE -out NEW`"
    } else {
        "contains no private key in PEM form; name the file of the private key"
    }
}

/// The reason why `bytes` contain no certificate, and what to do.
pub(super) fn describe_certificate(bytes: &[u8]) -> &'static str {
    let contains = |text: &str| memchr::memmem::find(bytes, text.as_bytes()).is_some();
    if bytes.trim_ascii().is_empty() {
        "is empty and contains no certificate; name a PEM file"
    } else if contains("-----BEGIN CERTIFICATE REQUEST") || contains("-----BEGIN NEW CERTIFICATE") {
        "contains a certificate request and no certificate; have it signed, and name the certificate"
    } else if contains("PRIVATE KEY-----") {
        "contains a private key and no certificate; name the file of the certificate"
    } else if is_pkcs12(bytes) {
        "is a PKCS #12 archive, not a PEM certificate; extract it with `openssl pkcs12 -in FILE -nokeys \
         -out NEW`"
    } else if bytes.starts_with(&[0x30]) {
        "is in the binary form DER, not a PEM certificate; convert it with `openssl x509 -inform DER \
         -in FILE -out NEW`"
    } else {
        "contains no certificate; name a PEM file"
    }
}

/// Returns true for the start of a PFX (RFC 7292, section 4): a sequence whose first element is the
/// version 3.
fn is_pkcs12(bytes: &[u8]) -> bool {
    let [0x30, length, rest @ ..] = bytes else { return false };
    // In the long form, the low bits count the bytes of the length.
    let skipped = if length & 0x80 == 0 { 0 } else { usize::from(length & 0x7f) };
    rest.get(skipped..).is_some_and(|content| content.starts_with(&[0x02, 0x01, 0x03]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(label: &str) -> Vec<u8> {
        format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n").into_bytes()
    }

    #[test]
    fn a_foreign_key_is_named() {
        let rsa = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n";
        for (bytes, what) in [
            (pem("ENCRYPTED PRIVATE KEY"), "is encrypted"),
            (rsa.to_vec(), "is encrypted"),
            (pem("OPENSSH PRIVATE KEY"), "OpenSSH"),
            (b"PuTTY-User-Key-File-3: ssh-ed25519\n".to_vec(), "SSH"),
            (pem("PGP PRIVATE KEY BLOCK"), "PGP"),
            (pem("DSA PRIVATE KEY"), "DSA"),
            (pem("PRIVATE KEY"), "damaged"),
            (pem("CERTIFICATE"), "a certificate and no private key"),
            (pem("CERTIFICATE REQUEST"), "a certificate request"),
            (pem("PUBLIC KEY"), "a public key"),
            (vec![0xfe, 0xed, 0xfe, 0xed, 0], "Java"),
            (vec![0x30, 0x82, 0x09, 0x01, 0x02, 0x01, 0x03, 0x30], "PKCS #12"),
            (vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05], "DER"),
            (b" \n".to_vec(), "is empty"),
            (b"hello\n".to_vec(), "no private key in PEM form"),
        ] {
            let shown = describe_key(&bytes);
            assert!(shown.contains(what), "{shown} for {}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        for (bytes, what) in [
            (pem("PRIVATE KEY"), "a private key"),
            (pem("ENCRYPTED PRIVATE KEY"), "a private key"),
            (pem("CERTIFICATE REQUEST"), "a certificate request"),
            (vec![0x30, 0x82, 0x01, 0x01, 0x30, 0x82], "DER"),
            (vec![0x30, 0x80, 0x02, 0x01, 0x03], "PKCS #12"),
            (Vec::new(), "is empty"),
            (b"hello\n".to_vec(), "contains no certificate"),
        ] {
            let shown = describe_certificate(&bytes);
            assert!(shown.contains(what), "{shown} for {}", bytes.escape_ascii());
        }
    }
}
