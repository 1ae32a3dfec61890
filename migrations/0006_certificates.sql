-- Certificates that controllers order (ACME, RFC 8555) and all proxies show.
--
-- The executable from before this ignores the tables; its proxies show the certificates that they are given as files.

-- One account with each issuer.
create table acme_accounts (
    directory text primary key,
    -- Its key among them: sealed.
    credentials bytea not null,
    created_at timestamptz not null default now()
);

create table certificates (
    -- Its names, joined by '+'.
    id text primary key,
    names text[] not null,
    -- Somebody came to this host, and the operator's hook allowed it. False: an operator has named it.
    on_demand boolean not null,
    -- Rises with each certificate that was issued. 0: none yet.
    version bigint not null default 0,
    chain text,
    -- The private key: sealed.
    sealed_key bytea,
    issued_at timestamptz,
    not_before timestamptz,
    not_after timestamptz,
    -- When it is ordered, again or for the first time.
    next_at timestamptz not null default now(),
    -- In a row, since it was last issued; and what the last one said.
    failures integer not null default 0,
    problem text,
    -- When the issuer is next asked for when it would like the renewal (ARI, RFC 9773), and what it said.
    ari_at timestamptz not null default now(),
    ari_start timestamptz,
    ari_end timestamptz,
    -- When a client last came to it, to the day.
    asked_at timestamptz not null default now(),
    created_at timestamptz not null default now()
);
create index certificates_names on certificates using gin (names);

-- What an issuer will ask for, while an order is under way.
create table acme_challenges (
    challenge text not null,
    -- The token of HTTP-01, the host of the others. A host and its wildcard have one each, under the same name.
    name text not null,
    value text not null,
    expires_at timestamptz not null,
    primary key (challenge, name, value)
);
