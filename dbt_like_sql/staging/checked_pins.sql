-- Every raw pin of the days, with the reason for which staging refuses it, or null. A pin's embedding is fixed: the
-- first usable row of a pin wins, over all days up to its own.
with arrived as (
    select pin_id
    from {{ source('raw', 'pins') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
),

measured as (
    select
        *,
        rowid as arrival,
        case
            when len(embedding) = {{ var('dimensions') }} and list_count(embedding) = {{ var('dimensions') }}
                then sqrt(array_inner_product(
                    embedding::double[{{ var('dimensions') }}], embedding::double[{{ var('dimensions') }}]
                ))
        end as norm
    from {{ source('raw', 'pins') }}
    where
        dt <= '{{ var("last_dt") }}'
        and (pin_id in (from arrived) or (pin_id is null and dt >= '{{ var("first_dt") }}'))
),

judged as (
    select
        *,
        case
            when pin_id is null then 'pin_id is null'
            when pin_id = -1 then 'pin_id -1 is reserved'
            when created_at is null then 'created_at is null'
            when created_at >= dt + interval 1 day then 'created_at is after the day of its partition'
            when embedding is null then 'embedding is null'
            when len(embedding) <> {{ var('dimensions') }}
                then concat('embedding has length ', len(embedding), ', not ', {{ var('dimensions') }})
            when norm is null then 'embedding holds a null'
            when not isfinite(norm) then 'embedding holds NaN or infinity'
            when norm = 0 then 'embedding is all zero'
        end as fault
    from measured
),

ranked as (
    select
        *,
        row_number() over (partition by pin_id, fault is null order by dt, arrival) as nth
    from judged
)

select
    * exclude (fault, arrival, nth),
    case
        when fault is not null then fault
        when nth > 1 then 'the pin is known already, and its embedding is fixed'
    end as reason
from ranked
where dt >= '{{ var("first_dt") }}'
